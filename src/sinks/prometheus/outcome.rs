//! What became of an interval that was added to what Prometheus gets, and what the log says of it.

use std::time::{Duration, Instant};

use crate::series::Series;
use crate::untrusted::Escaped;

/// Conflicts that are kept to be named; all are counted.
const MOST_CONFLICTS: usize = 1000;

/// Two series that would be one, of which the first keeps the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who has the name, with its type.
    pub holder: String,
    /// Who wants it, with its type.
    pub other: String,
    /// What the name is.
    pub name: String,
}

/// The records of an interval that are left out, by reason.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Of series that found their name taken.
    pub conflict: u64,
    /// The first of those.
    pub conflicts: Vec<Conflict>,
    /// Of counters that fell.
    pub negative: u64,
    /// The first of those.
    pub fallen: Option<Series>,
    /// Of series for which there was no room.
    pub max_series: u64,
    /// Of new series for which there was no memory.
    pub memory: u64,
}

impl Outcome {
    pub(super) fn conflict(&mut self, conflict: Conflict, records: u64) {
        self.conflict += records;
        if self.conflicts.len() < MOST_CONFLICTS {
            self.conflicts.push(conflict);
        }
    }

    pub(super) fn negative(&mut self, series: &Series) {
        self.negative += 1;
        self.fallen.get_or_insert_with(|| series.clone());
    }

    /// One of which only the counts are known, in the order of [`Outcome::dropped`].
    pub(super) fn of_counts([conflict, negative, max_series, memory]: [u64; 4]) -> Outcome {
        Outcome { conflict, negative, max_series, memory, ..Outcome::default() }
    }

    /// For a receipt.
    pub(in crate::sinks) fn dropped(&self) -> [(&'static str, u64); 4] {
        [
            ("conflict", self.conflict),
            ("negative", self.negative),
            ("max_series", self.max_series),
            ("memory", self.memory),
        ]
    }
}

/// Logs what was left out, at most once in an interval.
#[derive(Debug)]
pub(in crate::sinks) struct OutcomeLog {
    sink: String,
    every: Duration,
    last: Option<Instant>,
}

impl OutcomeLog {
    /// For a sink's label.
    pub(in crate::sinks) fn new(sink: &str, every: Duration) -> OutcomeLog {
        OutcomeLog { sink: sink.to_string(), every, last: None }
    }

    /// Label of the sink.
    pub(in crate::sinks) fn sink(&self) -> &str {
        &self.sink
    }

    /// Logs how many series of an earlier start have found no room.
    pub(in crate::sinks) fn log_restored(&self, left_out: u64) {
        if left_out > 0 {
            let sink = &self.sink;
            tracing::warn!(sink, series = left_out, "there is no room for all series of before; these begin anew");
        }
    }

    /// Logs what was left out of an interval.
    pub(in crate::sinks) fn log(&mut self, outcome: &Outcome) {
        let is_clean = outcome.dropped().iter().all(|(_, records)| *records == 0);
        if is_clean || self.last.is_some_and(|last| last.elapsed() < self.every) {
            return;
        }
        self.last = Some(Instant::now());
        let sink = &self.sink;
        if let Some(first) = outcome.conflicts.first() {
            tracing::warn!(
                sink,
                name = %Escaped(&first.name),
                holder = %Escaped(&first.holder),
                other = %Escaped(&first.other),
                records = outcome.conflict,
                "series have a name in Prometheus that belongs to another; they are left out"
            );
        }
        if let Some(first) = &outcome.fallen {
            tracing::warn!(
                sink,
                series = %Escaped(&first.to_string()),
                records = outcome.negative,
                "counters were negative; a counter of Prometheus cannot fall: name those that do in `updown`"
            );
        }
        if outcome.max_series > 0 {
            tracing::warn!(
                sink,
                records = outcome.max_series,
                "the sink holds `max_series` series; what is new is left out"
            );
        }
        if outcome.memory > 0 {
            tracing::warn!(sink, records = outcome.memory, "memory is short; the sink leaves out what is new");
        }
    }
}
