//! The state folder of a daemon: opened when its sockets are bound, so that a start that fails changes nothing there.

use std::time::Instant;

use crate::assemble;
use crate::config::Config;
use crate::flush::state::StateOptions;
use crate::journal::Journal;
use crate::state::{LOCK_PATIENCE, PREDECESSOR_PATIENCE, StateFolder};
use crate::sys::unix_time;

/// Opens the configured folder, which a process that has handed over to this one may still hold.
pub(super) fn open(config: &Config, is_handed_over: bool) -> StateFolder {
    let folder = assemble::state_dir(config, |name| std::env::var(name).ok());
    let patience = if is_handed_over { PREDECESSOR_PATIENCE } else { LOCK_PATIENCE };
    folder.map_or_else(StateFolder::off, |folder| StateFolder::open(&folder, patience))
}

/// How the flusher keeps what it knows.
pub(super) fn options(config: &Config, folder: &StateFolder, started: Instant) -> StateOptions {
    StateOptions {
        folder: folder.clone(),
        every: config.state_interval,
        keeps_open: config.keep_open_interval,
        most_series: config.max_series,
        receives_since: unix_time() - started.elapsed().as_secs_f64(),
    }
}

/// Begins a run, and says if the last one had no clean end.
pub(super) fn begin_run(folder: &StateFolder, journal: &Journal) {
    if let Some(since) = folder.begin_run() {
        let last = format!("its last sign of life was {since:.0} s before this start");
        journal.add_start(unix_time(), "the last process ended without a clean stop", &last);
        tracing::warn!(
            last_sign_of_life = format!("{since:.0} s ago"),
            "the last process ended without a clean stop; what it had received since its last state, and not delivered, is lost"
        );
    }
}
