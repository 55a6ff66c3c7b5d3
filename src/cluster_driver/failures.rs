//! Failures of the bus in the log: the first one, how many there were in each minute after, and that they are over.

use std::time::{Duration, Instant};

/// How often it is said that they go on.
const AGAIN: Duration = Duration::from_secs(60);

/// They are over when something went well and nothing has failed for so long.
const OVER: Duration = Duration::from_secs(5);

/// Failures that are not over.
#[derive(Debug, Default)]
pub(super) struct Failures(Option<Going>);

#[derive(Debug)]
struct Going {
    since: Instant,
    last: Instant,
    said: Instant,
    count: u64,
}

impl Failures {
    pub(super) fn fails(&mut self, error: &str, now: Instant) {
        let Some(going) = &mut self.0 else {
            tracing::warn!(error, "the bus of the cluster refuses something; trying again");
            self.0 = Some(Going { since: now, last: now, said: now, count: 1 });
            return;
        };
        (going.last, going.count) = (now, going.count + 1);
        if now - going.said >= AGAIN {
            going.said = now;
            let secs = (now - going.since).as_secs();
            tracing::warn!(error, failures = going.count, secs, "the bus of the cluster refuses things still");
        }
    }

    pub(super) fn works(&mut self, now: Instant) {
        if let Some(going) = self.0.take_if(|going| now - going.last >= OVER) {
            let secs = (going.last - going.since).as_secs();
            tracing::info!(failures = going.count, secs, "the bus of the cluster takes everything again");
        }
    }
}
