//! Who sends what: bounded sketches of senders, of the prefixes of names, and of the keys of tags. Pure: no socket, no clock.
//!
//! | file | does |
//! |---|---|
//! | `origin` | who sent a line: an address, or a process of this machine; and the container that the line names |
//! | `prefix` | what a name begins with |
//! | `table` | counts of the heaviest keys, in a bounded table |
//! | `tag_keys` | distinct values of tags by their key |
//! | `sketch` | what a receive worker counts in an interval, and which batches it looks at |
//! | `summary` | the sketches of all workers, interval by interval, and what is to be said of them |
//! | `report` | what is published |
//!
//! A worker owns its [`Sketch`]: nothing is locked. Of one batch in up to [`MOST_BATCHES`] it asks the kernel for senders, and
//! counts the lines of that batch for as many; of a worker with few datagrams it is every batch, so that its shares are exact.
//! What lines of a known series cost is nothing but for those batches. Malformed lines and new series take the slow path
//! anyway and are all counted by prefix; by sender those of the batches with senders are, which are all batches while a limit
//! is near. At a flush the worker hands over a [`Gathered`], and the [`Summary`] of the flusher merges them.
//!
//! Bounds: [`COUNTERS`] senders, as many prefixes, and as many pairs of both; [`TAG_KEYS`] keys of tags; an example of each
//! reason why a line was refused; [`SPARK_POINTS`] intervals of [`SPARKS`] senders.
#![deny(clippy::disallowed_methods)]

mod origin;
mod prefix;
mod report;
mod sketch;
mod summary;
mod table;
mod tag_keys;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

pub use origin::{Origin, Sender, Text};
pub use prefix::{Prefix, prefix_of};
pub use report::{ExampleStat, Rates, Report, SenderStat, SenderWarning, Share, TagKeyStat};
pub use sketch::{Example, Gathered, MOST_BATCHES, Sketch};
pub use summary::{Closed, Part, SPARK_POINTS, SPARKS, Summary};
pub use table::{COUNTERS, Counts};
pub use tag_keys::TAG_KEYS;

/// What is known of the senders as of the last interval. Cheap to clone; clones are one.
#[derive(Clone, Debug, Default)]
pub struct Senders(Arc<Mutex<Arc<Report>>>);

impl Senders {
    /// Publishes the report of an interval; the flusher does.
    pub fn publish(&self, report: Report) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(report);
    }

    /// The report of the last interval; an empty one before the first has closed.
    pub fn report(&self) -> Arc<Report> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who sends the series of this name, the largest first: those who send lines under [the prefix](prefix_of) of the name.
    /// Shares are of the lines under that prefix, 0 to 1.
    pub fn of_series(&self, name: &str) -> Vec<Share> {
        self.report().of_series(name)
    }
}
